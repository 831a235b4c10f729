"""What is done around the noise while a pipeline generates."""
