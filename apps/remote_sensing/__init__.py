"""Remote sensing: Prithvi and SoftCon on images of the Earth, their fine-tuning and maps of whole scenes."""
