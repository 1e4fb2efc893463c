"""The Streamlit pages. This package never imports TensorFlow: the engine runs in its own process."""
