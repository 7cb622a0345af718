"""Risk: records that are found in one kind of place and lost in another; a message that does not say what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agent_srl.data.formats import read_records, read_trajectories
from agent_srl.errors import DataError


def row(i: int = 0, command: str = "ls") -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "run", "arguments": json.dumps({"command": command})}}
    messages = [
        {"role": "user", "content": "Mend it."},
        {"role": "assistant", "content": "why", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "a.py"},
    ]
    return {"instance_id": f"a__b-{i}", "messages": messages}


def ids(path: Path | str) -> list[str]:
    return [t.instance_id for t in read_trajectories(path, strict=True)[0]]


def test_a_folder_is_read_with_all_below_it_and_names_what_it_skips(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.jsonl").write_text(json.dumps(row(1)) + "\n" + json.dumps(row(2)) + "\n")
    (tmp_path / "deep" / "b.json.gz").write_bytes(gzip.compress(json.dumps([row(3)]).encode()))
    turn = {"thought": "why", "action": "ls", "response": "why", "observation": "", "query": row()["messages"][:1]}
    (tmp_path / "deep" / "er" / "c__d-4.traj").write_text(json.dumps({"trajectory": [turn]}, indent=1))
    (tmp_path / "notes.txt").write_text("no trajectory")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "report.json").write_text('{"resolved": 3}')
    trajectories, rejected = read_trajectories(tmp_path)
    assert [t.instance_id for t in trajectories] == ["a__b-1", "a__b-2", "a__b-3", "c__d-4"]
    assert [Path(r.origin.file).name for r in rejected] == ["empty.jsonl", "report.json"]
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        read_trajectories(tmp_path, strict=True)


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.txt", "t.traj"])
def test_json_and_json_lines_are_told_by_content_not_by_ending(tmp_path, name):
    path = tmp_path / name
    rows = [row(1), row(2)]
    path.write_text("\ufeff" + "".join(json.dumps(r) + "\n" for r in rows))
    assert ids(path) == ["a__b-1", "a__b-2"]
    for indent in (None, 2):
        path.write_text(json.dumps(rows, indent=indent))
        assert ids(path) == ["a__b-1", "a__b-2"]
        path.write_text(json.dumps(rows[0], indent=indent))
        assert ids(path) == ["a__b-1"]


def test_broken_lines_are_named_by_their_number_wherever_they_stand(tmp_path):
    path = tmp_path / "t.jsonl"
    for position in range(3):
        lines = [json.dumps(row(i)) for i in range(2)]
        lines.insert(position, '{"instance_id": "cut')
        path.write_text("\n".join(lines))
        trajectories, rejected = read_trajectories(path)
        assert len(trajectories) == 2 and [r.line for r in rejected] == [position + 1]
        with pytest.raises(DataError, match=f"t.jsonl:{position + 1}: not JSON"):
            read_trajectories(path, strict=True)


def test_half_a_surrogate_pair_and_odd_line_breaks_do_not_cost_a_record(tmp_path):
    path = tmp_path / "t.jsonl"
    record = row(1, "echo \u2028 \x85")
    record["messages"][2]["content"] = "cut \ud83d"
    path.write_text(json.dumps(record) + "\n" + json.dumps(row(2), ensure_ascii=False) + "\r\n")
    first, second = read_trajectories(path, strict=True)[0]
    assert first.steps[0].observation == "cut \ufffd" and second.instance_id == "a__b-2"
    assert first.steps[0].action is not None and first.steps[0].action.arguments["command"] == "echo \u2028 \x85"


def test_records_without_an_id_are_named_after_their_file_and_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    rows = [{"messages": row()["messages"]}] * 2
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert ids(path) == ["runs#1", "runs#2"]


def test_parquet_and_saved_data_sets_are_read_and_padded_nulls_dropped(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [row(1), row(2)]
    for r in rows:
        call = r["messages"][1]["tool_calls"][0]
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    rows[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"path": "x"}
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(tmp_path / "t.parquet")
    data.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "t.parquet", tmp_path / "saved"):
        read = read_trajectories(path, strict=True)[0]
        assert [t.instance_id for t in read] == ["a__b-1", "a__b-2"]
        assert [t.steps[0].action.arguments for t in read if t.steps[0].action] == [{"command": "ls"}, {"path": "x"}]


def test_data_sets_of_the_hub_are_named_with_their_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        data = datasets.Dataset.from_list([row(1)])
        return datasets.DatasetDict({"tool": data, "xml": data})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert ids("org/runs:tool") == ["a__b-1"] and asked == ["org/runs"]
    with pytest.raises(DataError, match=r"tool, xml: name one, such as org/runs:tool"):
        read_trajectories("org/runs")
    with pytest.raises(DataError, match="no such split"):
        read_trajectories("org/runs:none")


def test_without_a_network_the_message_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(name: str) -> Any:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"cannot load the data set org/runs .*network") as caught:
        read_trajectories("org/runs")
    assert "\n" not in str(caught.value)


def test_an_unknown_format_is_answered_with_the_names(tmp_path):
    with pytest.raises(DataError, match=r"unknown format 'x'.*atif.*swe-agent"):
        list(read_records(tmp_path, "x"))


def test_a_named_format_is_used_and_does_not_fit_everything(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row()) + "\n")
    [record] = read_records(path, "openhands-events")
    assert "no user message" in str(record) or "no turn" in str(record)
