"""Tables that grow: rows replaced by their key, kept through concurrency, each with what made it."""

from concurrent.futures import ThreadPoolExecutor

from curl_rl.run.measurements import made_by, merge_rows, read_rows


def test_merging_replaces_rows_of_the_same_key(tmp_path):
    path = tmp_path / "new" / "table.csv"
    merge_rows(path, [{"a": "x", "b": 1, "c": 2.5}, {"a": "y", "b": 1, "c": 3}], ("a", "b"))
    merge_rows(path, [{"a": "x", "b": 1, "c": 4}, {"a": "x", "b": 1, "c": 5}], ("a", "b"))
    assert path.read_text() == "a,b,c\ny,1,3\nx,1,4\nx,1,5\n"
    assert read_rows(tmp_path / "absent.csv") == []


def test_rows_that_stay_keep_what_they_say(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,old\nx,1\ny,2\n")
    merge_rows(path, [{"a": "y", "command": "c"}], ("a",))
    assert path.read_text() == "a,old,command\nx,1,\ny,,c\n"


def test_rows_that_are_merged_at_once_are_all_kept(tmp_path):
    path = tmp_path / "table.csv"

    def merge(worker: int) -> None:
        for i in range(10):
            merge_rows(path, [{"a": f"{worker}-{i}"}], ("a",))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(merge, range(4)))
    assert len(read_rows(path)) == 40


def test_each_row_says_what_made_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["curl-rl", "probe", "an encoder"])
    made = made_by()
    assert made["command"] == "curl-rl probe 'an encoder'"
    assert "torch=" in made["versions"]
    assert made["hardware"]
