"""The entry point for `streamlit run dashboard/app.py`: layout, login and navigation.

The pages lie in `views`, not in `pages`: Streamlit would serve a folder `pages` by itself, without this file.
"""

import streamlit as st

from core import log
from dashboard import auth, server_lock

log.begin()
st.set_page_config(page_title="Style Transfer Studio", page_icon="🎨", layout="wide")
# Leave little space above the pictures, and show the result first on a phone. Give presets, sample names and layers the
# space that they need: Streamlit would cut or wrap them.
st.html("""<style>
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem; }
[class*="st-key-heading-"] { min-height: 2.5rem; }
.st-key-preset button { padding-inline: 0.5rem; }
[class*="st-key-samples-"] button { padding: 0; }
div:has(> [data-testid="stMultiSelectTagsContainer"]) { max-height: 24rem; }
@media (max-width: 640px) { .st-key-pictures [data-testid="stColumn"]:last-child { order: -1; } }
</style>""")
auth.require_login()
page = st.navigation(
    [
        st.Page("views/stylize.py", title="Stylize", icon=":material/brush:", default=True),
        st.Page("views/library.py", title="Library", icon=":material/photo_library:"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare:"),
        st.Page("views/timings.py", title="Timings", icon=":material/timer:"),
    ],
    position="top" if (alone := not server_lock.another_server_runs()) else "hidden",
)
try:
    if alone:
        page.run()
    else:
        server_lock.show_runs()
except Exception as error:  # Streamlit shows the visitor only that an error occurred
    log.failed("page failed", error, page=page.title)
    raise
