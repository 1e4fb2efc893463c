"""`streamlit run dashboard/app.py`: the frame around the pages.

They lie in `views`, not in `pages`: Streamlit would serve a folder of that name by itself, without this frame.
"""

import streamlit as st

from core import log
from dashboard import auth, server_lock

log.begin()
st.set_page_config(page_title="Style Transfer Studio", page_icon="🎨", layout="wide")
# The pictures are what the page is for: little room above them, and on a phone the painted one first. Four presets, the
# longest sample's name and five layers have room where Streamlit would cut or wrap them.
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
except Exception as error:  # Streamlit shows that something went wrong
    log.failed("page failed", error, page=page.title)
    raise
