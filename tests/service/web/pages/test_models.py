"""The page of models: everybody sees them, admins register and remove them."""

from pathlib import Path

import pytest

from tests.support.model_folders import make_model_folder
from tests.support.pages import OURS, Page, SignIn

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def names(page: Page) -> list[str]:
    return [text.split()[0] for _, text in page.all("td", class_="sample")]


def test_a_model_of_the_hub_is_registered_and_removed(sign_in: SignIn) -> None:
    client = sign_in()
    form = {"name": "small-one", "source": "hub", "location": " acme/small-one ", "revision": f" {COMMIT}"}
    assert client.post("/models", data=form, headers=OURS).headers["location"] == "/models"
    page = Page(client.get("/models").text)
    assert names(page)[0] == "small-one"
    assert COMMIT in page.text
    model = client.get("/v1/models/small-one").json()
    assert (model["location"], model["revision"]) == ("acme/small-one", COMMIT)
    assert client.post(f"/models/{model['id']}/delete", headers=OURS).status_code == 303
    assert "small-one" not in names(Page(client.get("/models").text))


def test_a_folder_of_the_server_is_registered_without_a_commit(sign_in: SignIn, tmp_path: Path) -> None:
    client = sign_in()
    folder = str(make_model_folder(tmp_path))
    form = {"name": "tiny", "source": "local", "location": folder, "revision": ""}
    answer = client.post("/models", data=form, headers=OURS)
    assert answer.status_code == 303, answer.text
    assert client.get("/v1/models/tiny").json()["location"] == folder


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"other": "x"}, "lower-case letters"),
        ({"name": "Large One", "source": "hub", "location": "a/b", "revision": COMMIT}, "lower-case letters"),
        ({"name": "x", "source": "ftp", "location": "a/b", "revision": COMMIT}, "lower-case letters"),
        ({"name": "x", "source": "hub", "location": "a/b", "revision": "main"}, "commit"),
        ({"name": "x", "source": "local", "location": "/nowhere"}, "folder"),
    ],
)
def test_what_cannot_be_registered_is_said(sign_in: SignIn, form: dict[str, str], says: str) -> None:
    client = sign_in()
    before = names(Page(client.get("/models").text))
    answer = client.post("/models", data=form, headers=OURS)
    assert answer.status_code in (409, 422)
    assert says in Page(answer.text).text
    assert names(Page(client.get("/models").text)) == before


def test_a_model_in_use_stays_and_who_is_no_admin_has_no_form(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    used = client.get(f"/v1/audits/{published}").json()["model_id"]
    answer = client.post(f"/models/{used}/delete", headers=OURS)
    assert answer.status_code == 409
    assert client.get(f"/v1/models/{used}").status_code == 200
    reader = sign_in("audits:write")
    page = Page(reader.get("/models").text)
    assert names(page)
    assert not page.all("form", action="/models")
    assert reader.post("/models", data={}, headers=OURS).status_code == 403
