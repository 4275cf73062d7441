"""What is wrong with a finished clip, from pixels alone: numbers, and a verdict that a person understands."""
