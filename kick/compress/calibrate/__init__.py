"""What a method is shown: a corpus, the blocks in order, and statistics of their inputs."""
