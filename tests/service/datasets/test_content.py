"""GET and HEAD of an upload's bytes: whole, by range, from a folder and from a bucket; and what was noticed in it."""

import contextlib

import pytest
from fastapi.testclient import TestClient

from service.http.conditional.downloads import BLOCK_BYTES, THREADS, content_disposition
from service.settings import Settings
from tests.support.dataset_records import chat, chats, gzipped, jsonl, turn
from tests.support.s3_server import S3Server

DATA = chats(20_000)
assert len(DATA) > 5 * BLOCK_BYTES


@pytest.fixture(params=["folder", "bucket"])
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    if request.param == "folder":
        return settings
    bucket: str = request.getfixturevalue("bucket")
    server: S3Server = request.getfixturevalue("s3_server")
    return settings.model_copy(update={"object_url": f"s3://{bucket}", "object_endpoint": server.endpoint})


@pytest.fixture
def address(client: TestClient) -> str:
    answer = client.post("/v1/datasets", content=DATA, params={"name": "tea"})
    return f"/v1/datasets/{answer.json()['id']}/content"


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=0-": (0, len(DATA)),
    "bytes=100-300000": (100, 300_001),
    f"bytes={len(DATA) - 1}-": (len(DATA) - 1, len(DATA)),
    "bytes=-7": (len(DATA) - 7, len(DATA)),
    f"bytes=-{10 * len(DATA)}": (0, len(DATA)),
    f"BYTES=5-{10**17}": (5, len(DATA)),
}


def test_the_bytes_come_back_whole_and_by_range(client: TestClient, address: str) -> None:
    whole = client.get(address)
    assert whole.status_code == 200
    assert whole.content == DATA
    dataset = client.get(address.removesuffix("/content")).json()
    assert whole.headers["etag"] == f'"{dataset["sha256"]}"'
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "application/jsonl"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"] == "attachment; filename=\"tea.jsonl\"; filename*=UTF-8''tea.jsonl"
    for given, (start, end) in RANGES.items():
        part = client.get(address, headers={"Range": given})
        assert (part.status_code, part.content == DATA[start:end]) == (206, True), given
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert part.headers["content-length"] == str(end - start)
        assert part.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
class TestConditions:
    """What headers ask for, of one store."""

    @pytest.mark.parametrize("given", [f"bytes={len(DATA)}-", "bytes=-0", "bytes=999999999-9999999999"])
    def test_a_range_behind_the_end_is_refused_with_the_size(
        self, given: str, client: TestClient, address: str
    ) -> None:
        answer = client.get(address, headers={"Range": given})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"

    @pytest.mark.parametrize(
        "given", ["bytes=5-3", "bytes=", "bytes=-", "bytes=a-b", "lines=0-3", "bytes=0-1,5-9", "bytes=0-1-2", "0-5"]
    )
    def test_other_ranges_are_answered_with_all(self, given: str, client: TestClient, address: str) -> None:
        answer = client.get(address, headers={"Range": given})
        assert (answer.status_code, len(answer.content)) == (200, len(DATA))

    def test_a_range_of_another_version_is_answered_with_all(self, client: TestClient, address: str) -> None:
        etag = client.head(address).headers["etag"]
        for given, status in (
            (etag, 206),
            ('"other"', 200),
            (f"W/{etag}", 200),
            ("Wed, 25 Nov 2026 10:00:00 GMT", 200),
        ):
            answer = client.get(address, headers={"Range": "bytes=0-9", "If-Range": given})
            assert answer.status_code == status, given
            assert answer.content == (DATA[:10] if status == 206 else DATA)

    def test_who_has_it_gets_304(self, client: TestClient, address: str) -> None:
        etag = client.head(address).headers["etag"]
        for given in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            answer = client.get(address, headers={"If-None-Match": given, "Range": "bytes=0-9"})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        for given in ('"x"', f"nonsense, {etag}", f"{etag} {etag}", f"*, {etag}"):  # the last three are no lists
            assert client.get(address, headers={"If-None-Match": given}).status_code == 200, given

    def test_head_says_what_get_would(self, client: TestClient, address: str) -> None:
        whole, head = client.get(address), client.head(address, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "etag", "content-type", "content-disposition", "accept-ranges"):
            assert head.headers[name] == whole.headers[name]

    def test_the_bytes_are_those_that_came(self, client: TestClient) -> None:
        for data, media_type, name in (
            (gzipped(chats(3)), "application/gzip", "x.jsonl.gz"),
            (b"prompt,completion\na,b\n", "text/csv; charset=utf-8", "x.csv"),
            (b"[" + jsonl([chat()]) + b"]", "application/json", "x.json"),
        ):
            identity = client.post("/v1/datasets", content=data, params={"name": "x"}).json()["id"]
            answer = client.get(f"/v1/datasets/{identity}/content")
            assert (answer.content, answer.headers["content-type"]) == (data, media_type)
            assert "content-encoding" not in answer.headers
            assert f'filename="{name}"' in answer.headers["content-disposition"]

    def test_a_missing_object_is_said_so(self, client: TestClient, address: str, settings: Settings) -> None:
        for path in settings.objects.rglob("original"):
            path.unlink()
        answer = client.get(address)
        assert (answer.status_code, answer.json()["code"]) == (500, "object_missing")

    def test_downloads_that_nobody_reads_hold_no_thread(self, client: TestClient, address: str) -> None:
        """More of them than there are threads, each left after its first bytes, and the next is answered."""
        with contextlib.ExitStack() as stack:
            for _ in range(THREADS + 2):
                answer = stack.enter_context(client.stream("GET", address))
                assert answer.status_code == 200
            assert client.get(address, headers={"Range": "bytes=0-3"}).content == DATA[:4]


@pytest.mark.parametrize(
    ("name", "plain", "encoded"),
    [
        ("Tee für zwei.csv", "Tee f_r zwei.csv", "Tee%20f%C3%BCr%20zwei.csv"),
        ("../../etc/passwd", "_.._etc_passwd", "_.._etc_passwd"),
        ('a"; filename="b.exe', "a__ filename=_b.exe".replace("=", "_"), "a_%3B%20filename%3D_b.exe"),
        ("cod\u202egpj.exe", "cod_gpj.exe", "cod_gpj.exe"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie_ x", "a__Set-Cookie_%20x"),
    ],
)
def test_a_file_name_leads_nowhere_and_ends_no_header(name: str, plain: str, encoded: str) -> None:
    assert content_disposition(name) == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


# ---------------------------------------------------------------- what was noticed


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_oddities_are_counted_with_their_first_rows(client: TestClient) -> None:
    plain = [chat(f"Question {number}?", "Fine.\n\tYes. \u2019 \u00e9 \u4e2d") for number in range(300)]
    odd = {
        3: chat("a\u202eb\u202ec", "x"),
        7: chat("a\u200bb", "x\u00ady"),
        150: chat("a", "\ufeffx"),
        151: chat("a", "x\u0007\u0085"),
        152: chat("a", " \n"),
        153: chat("\U0001f469\u200d\U0001f680", "x\ufe0f"),
        154: chat("a\u2028b", "x"),
        155: {
            "messages": [turn("user", "a") | {"name": "A\u202e"}, turn("assistant", "b") | {"weight": 1, "name": "B"}]
        },
    }
    records = [odd.get(number, record) for number, record in enumerate(plain)] + [chat("a\u200bb", "")] * 30
    identity = client.post("/v1/datasets", content=b"\xef\xbb\xbf" + jsonl(records)).json()["id"]
    body = client.get(f"/v1/datasets/{identity}/validation").json()
    assert (body["dataset_id"], body["rows"]) == (identity, 330)
    notices = {notice["kind"]: notice for notice in body["notices"]}
    assert all(notice["meaning"] for notice in body["notices"])
    last = list(range(300, 319))
    assert {kind: (notice["rows"], notice["first_rows"], notice["found"]) for kind, notice in notices.items()} == {
        "bidi_characters": (1, [3], {"U+202E": 2}),
        "invisible_characters": (31, [7, *last], {"U+200B": 31, "U+00AD": 1}),
        "byte_order_marks": (1, [150], {"U+FEFF": 1}),
        "control_characters": (1, [151], {"U+0007": 1, "U+0085": 1}),
        "joining_characters": (1, [153], {"U+200D": 1, "U+FE0F": 1}),
        "line_separators": (1, [154], {"U+2028": 1}),
        "empty_answers": (31, [152, *last], {}),
        "ignored_turn_keys": (1, [155], {"name": 2, "weight": 1}),
        "byte_order_mark_at_start": (0, [], {}),
    }
    # They are kept as they are.
    rows = client.get(f"/v1/datasets/{identity}/rows", params={"limit": 4}).json()["data"]
    assert rows[3]["messages"][0]["content"] == "a\u202eb\u202ec"


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_control_characters_are_found_in_plain_text_too(client: TestClient) -> None:
    identity = client.post("/v1/datasets", content=jsonl([chat("a"), chat("b\u001b[0m"), chat("c\x7f")])).json()["id"]
    (notice,) = client.get(f"/v1/datasets/{identity}/validation").json()["notices"]
    assert (notice["kind"], notice["rows"], notice["first_rows"]) == ("control_characters", 2, [1, 2])


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_a_clean_upload_has_no_notices(client: TestClient) -> None:
    identity = client.post("/v1/datasets", content=chats(300)).json()["id"]
    assert client.get(f"/v1/datasets/{identity}/validation").json()["notices"] == []


# ---------------------------------------------------------------- columns named by the request


@pytest.mark.parametrize("settings", ["folder"], indirect=True)
def test_columns_can_be_named_in_the_request(client: TestClient) -> None:
    data = b"question,reply,topic\nWhy?,So.,tea\n"
    query = {"prompt_column": "question", "answer_column": "reply"}
    body = client.post("/v1/datasets", content=data, params=query).json()
    assert (body["format"], body["container"], body["columns"]) == ("mapped", "csv", ["topic"])
    for wrong, pointer in (
        ({"prompt_column": "question"}, "query:answer_column"),
        ({"answer_column": "reply"}, "query:prompt_column"),
        ({"system_column": "topic"}, "query:prompt_column"),
        ({**query, "system_column": "reply"}, "query:answer_column"),
        ({**query, "format": "alpaca"}, "query:format"),
        ({**query, "prompt_column": ""}, "query:prompt_column"),
    ):
        answer = client.post("/v1/datasets", content=data, params=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), wrong
        assert answer.json()["errors"][0]["pointer"] == pointer
