"""Start a training script on the right GPUs with the right strategy, and leave no process behind."""
