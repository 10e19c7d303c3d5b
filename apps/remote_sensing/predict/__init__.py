"""Maps and features of whole scenes, read and written block by block.

`command` parses both verbs, `run` does them; `model.SceneModel` is a checkpoint alone; `scene` reads tiles,
`mapping.map_scene` maps one scene, `settings.MapSettings` says how; `growing_map`, `geotiff` and `tables`
write.
"""
