from engine.media.lame import lend_to_ffmpeg

lend_to_ffmpeg()  # here, because every import of PyAV comes after it
