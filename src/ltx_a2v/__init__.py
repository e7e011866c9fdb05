"""Audio-to-video with LTX-2.3 on a GPU that is already busy."""
