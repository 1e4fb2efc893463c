"""The page. This package never imports TensorFlow: the engine works in a process of its own."""
