"""Maps of whole scenes, read and written block by block.

`mapping.map_scene` maps one scene, `batch.each_scene` works on many; `settings.MapSettings` says how.
`source` reads windows of a scene; `target` writes the map, first with a progress file, at the end
cloud-optimised.
"""
