"""From a trained model to a file for a runtime, and back into the place of the model."""
