"""`streamlit run dashboard/app.py`: the frame around the pages."""

import streamlit as st

st.set_page_config(page_title="Style Transfer Studio", page_icon="🎨", layout="wide")
st.html("<style>.stMainBlockContainer { padding-top: 2.5rem; }</style>")  # the pictures are what the page is for
st.navigation([st.Page("pages/stylize.py", title="Stylize", icon=":material/brush:")], position="hidden").run()
