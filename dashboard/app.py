"""`streamlit run dashboard/app.py`: the frame around the pages."""

import streamlit as st

st.set_page_config(page_title="Style Transfer Studio", page_icon="🎨", layout="wide")
# The pictures are what the page is for: little room above them, and on a phone the painted one first.
st.html("""<style>
.stMainBlockContainer { padding-top: 2.5rem; }
@media (max-width: 640px) { .st-key-pictures [data-testid="stColumn"]:last-child { order: -1; } }
</style>""")
st.navigation([st.Page("pages/stylize.py", title="Stylize", icon=":material/brush:")], position="hidden").run()
