from engine.media.lame import preload_lame

preload_lame()  # here, because every import of PyAV comes after it
