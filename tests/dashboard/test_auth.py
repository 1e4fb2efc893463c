"""The login: who may enter, and whose runs a person sees and opens."""

import io
import json
import zipfile

import pytest
import streamlit as st
from streamlit import config

from core import paths
from core.errors import InputError
from core.jobs import schedule
from core.machine.processes import ProcessId
from core.runs import archive, library, store
from dashboard.common.text import plain
from export.report import bundle

ISSUER = "https://login.example"
ADA, BOB = f"{ISSUER} ada", f"{ISSUER} bob"


@pytest.fixture
def login(monkeypatch, tmp_path):
    """Return a function that writes the login's settings into Streamlit's secrets."""
    path = tmp_path / "secrets.toml"
    secrets = st.secrets._secrets
    files = st.get_option("secrets.files")

    def configure(text="[auth]\nclient_id = 'studio'\n"):
        path.write_text(text)
        config.set_option("secrets.files", [str(path)])
        st.secrets._secrets = None

    yield configure
    config.set_option("secrets.files", files)
    st.secrets._secrets = secrets


@pytest.fixture
def visit_as(visit):
    """Return a function that opens a page as a logged-in person, or as nobody."""

    def open_view(person, name, **query):
        claims = {"is_logged_in": True, "iss": ISSUER, "sub": person, "name": person} if person else {}
        return visit(name, user=claims, **query)

    return open_view


@pytest.fixture
def theirs(kept):
    """Return a run of Ada's, one of Bob's, and one without an owner."""
    kept.done.change(owner=ADA)
    kept.steered.change(owner=BOB)
    return kept


def texts(page):
    return " ".join(element.value for element in [*page.markdown, *page.caption, *page.error, *page.warning])


def cards(page):
    return [box.key.removeprefix("tick-") for box in page.checkbox]


def labels(page):
    return [button.label for button in page.button]


def test_without_a_login_everyone_sees_everything(visit_as, theirs):
    assert set(cards(visit_as(None, "library"))) == {run.id for run in vars(theirs).values()}


@pytest.mark.parametrize("name", ["stylize", "library", "compare", "timings"])
def test_without_logging_in_people_see_nothing(visit_as, theirs, login, name):
    login()
    page = visit_as(None, name, run=theirs.done.id, runs=f"{theirs.done.id},{theirs.steered.id}")
    assert labels(page) == ["Log in"]
    assert not [*page.markdown, *page.caption, *page.header, *page.image, *page.dataframe, *page.file_uploader]


@pytest.mark.parametrize("settings", ["[auth", "\x00"])
def test_unreadable_login_settings_close_the_page(visit_as, theirs, login, settings, told):
    login(settings)
    page = visit_as("ada", "library")
    assert "The page is closed" in texts(page) and not cards(page) and labels(page) == []
    assert "login not set up" in told.lines()[0]


@pytest.mark.parametrize("claims", [{}, {"iss": ISSUER}, {"sub": "ada"}, {"iss": ISSUER, "sub": ""}])
def test_a_login_without_its_claims_shows_nothing(visit, theirs, login, claims):
    login()
    page = visit("library", user={"is_logged_in": True, **claims})
    assert "does not say who you are" in texts(page) and not cards(page)


def test_an_incomplete_login_is_explained_in_the_log(visit_as, login, told):
    login("[auth]\nclient_secret = 'quiet'\n")
    page = visit_as(None, "library")
    page.button[0].click().run()
    assert "not set up" in texts(page) and not page.exception
    lines = told.lines()
    assert "redirect_uri" in lines[0] and "quiet" not in " ".join(lines)


def test_the_library_shows_people_only_their_own_runs(visit_as, theirs, login):
    login()
    assert cards(visit_as("ada", "library")) == [theirs.done.id]
    assert cards(visit_as("bob", "library")) == [theirs.steered.id]
    assert cards(visit_as("eve", "library")) == []
    assert "ada" in texts(visit_as("ada", "library")) and "Log out" in labels(visit_as("ada", "library"))


def test_a_search_finds_no_runs_of_others(visit_as, theirs, login):
    login()
    page = visit_as("ada", "library", words="waves")
    assert cards(page) == [] and "0 of 1 run" in texts(page)


def test_the_url_opens_only_a_persons_own_runs(visit_as, theirs, login):
    login()
    assert visit_as("ada", "stylize", run=theirs.done.id).image
    for other in (theirs.steered, theirs.stopped):
        page = visit_as("ada", "stylize", run=other.id)
        assert (
            f"There is no run {plain(other.id)} here" in page.warning[0].value
        )  # the page does not say that it exists
        assert "Continue" not in labels(page) and "Painted" not in texts(page)


def test_last_means_a_persons_own_last_run(visit_as, theirs, login):
    login()
    assert theirs.done.id < theirs.steered.id < theirs.stopped.id
    assert store.find("last") == theirs.stopped and store.find("last", ADA) == theirs.done
    assert "coffee × glass" in visit_as("ada", "stylize", run="last").header[0].value
    assert store.find(theirs.done.id[:-3], ADA) == theirs.done
    with pytest.raises(InputError):
        store.find(theirs.steered.id[:-3], ADA)


def test_people_restore_only_their_own_deleted_runs(visit_as, theirs, login):
    login()
    for run in vars(theirs).values():
        library.delete(run)
    page = visit_as("ada", "library")
    assert [button.key for button in page.button if button.label == "Restore"] == [f"restore-{theirs.done.id}"]
    page.button(key=f"restore-{theirs.done.id}").click().run()
    assert cards(page) == [theirs.done.id]


@pytest.fixture
def hush(theirs, new_run):
    """Make runs of Bob's in every state: finished, deleted, waiting and being painted."""
    theirs.steered.change(content="hush finished")
    theirs.done.change(content="hush deleted", owner=BOB)
    library.delete(theirs.done)
    waiting, painting = new_run("hush waiting"), new_run("hush painting")
    waiting.change(owner=BOB)
    painting.change(owner=BOB, status="running", writer=ProcessId.this_process())
    paths.queue().mkdir(parents=True)
    (paths.queue() / waiting.id).touch()


@pytest.mark.parametrize("name", ["stylize", "library", "compare", "timings"])
def test_no_page_names_a_run_of_others(visit_as, hush, login, name):
    login()
    assert "hush" not in repr(visit_as("ada", name)._tree)


@pytest.mark.parametrize("name", ["stylize", "library", "compare"])
def test_the_pages_name_shared_runs(visit_as, hush, login, name):
    login("[auth]\nclient_id = 'studio'\nshare_runs = true\n")
    page = visit_as("ada", name, **({"run": "last"} if name == "stylize" else {}))
    assert "hush" in repr(page._tree)


def test_nobody_overtakes_or_cancels_runs_of_others(visit_as, hush, login, new_run, started):
    login()
    first, second = new_run("first", "mine"), new_run("second", "mine")
    for run in (first, second):
        run.change(owner=ADA)
        schedule.submit(run)
    page = visit_as("ada", "stylize", run=first.id)
    shown = [element.value for element in page.markdown if element.value[:2] in ("1.", "2.", "3.")]
    assert [words in line for words, line in zip(("Someone else", "first", "second"), shown, strict=True)] == 3 * [True]
    asked = {button.key for button in page.button if button.label in ("First", "Sooner", "Cancel")}
    assert asked == {f"Cancel-{first.id}", f"Sooner-{second.id}", f"Cancel-{second.id}"}


def test_a_run_with_a_damaged_record_has_no_owner(visit_as, theirs, login):
    login()
    (theirs.done.path / "run.json").write_bytes(b"{")
    page = visit_as("ada", "stylize", run=theirs.done.id)
    assert "There is no run" in page.warning[0].value


def test_people_compare_only_their_own_runs(visit_as, theirs, login):
    login()
    page = visit_as("ada", "compare", runs=f"{theirs.done.id},{theirs.steered.id}")
    assert page.multiselect[0].value == [theirs.done.id] and len(page.multiselect[0].options) == 1
    assert "There is no finished run" in page.warning[0].value
    assert not page.dataframe


def test_a_new_page_shows_a_persons_own_unfinished_run(visit_as, theirs, login, new_run):
    login("[auth]\nclient_id = 'studio'\nshare_runs = true\n")
    running = new_run("mine", "painting")
    running.change(owner=BOB, status="running", writer=ProcessId.this_process())
    assert visit_as("bob", "stylize").query_params["run"] == running.id
    assert "run" not in visit_as("ada", "stylize").query_params


def test_everyone_sees_all_shared_runs(visit_as, theirs, login):
    login("[auth]\nclient_id = 'studio'\nshare_runs = true\n")
    assert set(cards(visit_as("ada", "library"))) == {run.id for run in vars(theirs).values()}
    assert visit_as("ada", "stylize", run=theirs.steered.id).image
    assert labels(visit_as(None, "library")) == ["Log in"]


def test_only_true_shares_runs(visit_as, theirs, login):
    login("[auth]\nclient_id = 'studio'\nshare_runs = 'false'\n")
    assert cards(visit_as("ada", "library")) == [theirs.done.id]


def test_started_and_imported_runs_belong_to_the_person(visit_as, theirs, login):
    login()
    packed = io.BytesIO()
    archive.export_run(theirs.steered, packed)
    assert b"login.example" not in packed.getvalue()
    before = {run.id for run in store.all_runs()}
    page = visit_as("ada", "library")
    page.file_uploader(key="import").set_value(("run.zip", packed.getvalue(), "application/zip")).run()
    page = visit_as("ada", "stylize")
    next(button for button in page.button if button.label == "Start").click().run()
    made = [run for run in store.all_runs() if run.id not in before]
    assert [run.record().owner for run in made] == [ADA, ADA]


def test_an_import_ignores_the_owner_in_the_file(own_home, theirs, tmp_path):
    packed = io.BytesIO()
    record = json.loads((theirs.done.path / "run.json").read_text()) | {"owner": BOB}
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("x/run.json", json.dumps(record))
        for name in ("content.png", "style-1.png"):
            file.write(theirs.done.path / name, f"x/{name}")
    assert archive.import_run(packed.getvalue(), owner=ADA).record().owner == ADA
    assert archive.import_run(packed.getvalue()).record().owner == ""


def test_the_command_line_sees_all_runs(theirs):
    assert len(library.entries()) == len(list(store.readable_runs())) == 3
    assert store.find(theirs.steered.id) == theirs.steered
    with pytest.raises(InputError):
        store.find(theirs.steered.id, ADA)


def test_a_report_names_no_owner(theirs):
    packed = io.BytesIO()
    bundle.write_zip(packed, [theirs.done, theirs.steered], {}, measured_by="none", timings={})
    with zipfile.ZipFile(packed) as file:
        assert not [name for name in file.namelist() if b"login.example" in file.read(name)]


def test_a_run_from_before_the_login_is_read(kept):
    record = json.loads((kept.done.path / "run.json").read_text())
    del record["owner"]
    (kept.done.path / "run.json").write_text(json.dumps(record))
    assert kept.done.record().owner == ""
