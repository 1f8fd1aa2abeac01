"""Face video: the frames wanted, the faces in them, their crops."""
