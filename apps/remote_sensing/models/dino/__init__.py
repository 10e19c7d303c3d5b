"""Networks of the DINO family that SoftCon pre-trains further: a vision transformer and a ResNet-50."""
