"""Every format is read, and what is none is refused."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shardwright.errors import TraceError
from shardwright.simulation import Arrivals, Series, read_distribution, read_traces

MINUTES = ",".join(str(n) for n in range(1, 1441))
FILES = {
    "nab.csv": "timestamp,value\n2014-01-01 00:00:00,300\n2014-01-01 00:05:00,600\n2014-01-01 00:15:00,0\n",
    "llm.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.9799600,3,8\n",
    "mooncake.jsonl": "\n".join(json.dumps({"timestamp": at, "input_length": 1}) for at in (0, 1500, 4000)),
    "azure2021.csv": "app,func,end_timestamp,duration\na,f,10.0,9.0\na,g,11.0,1.0\na,f,21.0,2.0\n",
    "azure2019.csv": f"HashOwner,HashApp,HashFunction,Trigger,{MINUTES}\no,a,f,http,{','.join(['6'] * 1440)}\n",
    "plain.csv": "arrival_s,component,duration_s\n3,web,1\n1,web,\n2,db,4\n",
    "series.csv": "time_s,value\n0,60\n60,120\n",
    "servegen.csv": "0,0.5,2,Gamma,1,1\n600,0,0,,0,0\n1200,1.5,3,Gamma,1,1\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_steps_become_rates_and_holes_nothing(folder: Path) -> None:
    [trace] = read_traces(folder / "nab.csv")
    assert isinstance(trace, Series)
    assert trace.step_s == 450 or trace.step_s == 300
    [trace] = read_traces(folder / "series.csv")
    assert isinstance(trace, Series)
    assert trace.values.tolist() == [1.0, 2.0]
    [trace] = read_traces(folder / "servegen.csv")
    assert isinstance(trace, Series)
    assert trace.values.tolist() == [0.5, 0.0, 1.5]
    assert trace.cv.tolist() == [2.0, 1.0, 3.0]


def test_single_requests_begin_at_zero(folder: Path) -> None:
    [llm] = read_traces(folder / "llm.csv")
    [mooncake] = read_traces(folder / "mooncake.jsonl")
    assert isinstance(llm, Arrivals)
    assert isinstance(mooncake, Arrivals)
    assert np.allclose(llm.at_s, [0, 1])
    assert np.allclose(mooncake.at_s, [0, 1.5, 4])


def test_functions_are_traces_of_their_own(folder: Path) -> None:
    first, second = read_traces(folder / "azure2021.csv")
    assert isinstance(first, Arrivals)
    assert isinstance(second, Arrivals)
    assert np.allclose(first.at_s, [0, 18])
    assert np.allclose(second.at_s, [9])
    [minutes] = read_traces(folder / "azure2019.csv")
    assert isinstance(minutes, Series)
    assert minutes.values.size == 1440
    assert np.allclose(minutes.values, 0.1)
    plain = {trace.name: trace for trace in read_traces(folder / "plain.csv")}
    web = plain["web"]
    assert isinstance(web, Arrivals)
    assert web.at_s.tolist() == [1, 3]
    assert np.isnan(web.durations_s[0])


def test_archives_and_folders(folder: Path) -> None:
    with tarfile.open(folder / "packed.tar.gz", "w:gz") as archive:
        archive.add(folder / "servegen.csv", "data/chunk-0-trace.csv")
    assert [trace.name for trace in read_traces(folder / "packed.tar.gz")] == ["packed/chunk-0-trace"]
    (folder / "README.md").write_text("no demand", encoding="utf-8")
    assert len(read_traces(folder)) == 11


@pytest.mark.parametrize(
    "text", ["", "what,is,this\n1,2,3\n", "timestamp,value\nnever,1\n", "{not json", "time_s,value\n5,1\n0,1\n"]
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError):
        read_traces(path)
    with pytest.raises(TraceError):
        read_traces(tmp_path)


def test_a_distribution_ascends(tmp_path: Path) -> None:
    path = tmp_path / "cdf.csv"
    path.write_text("length,F(x)\n1,0.5\n2,1.0\n", encoding="utf-8")
    values, shares = read_distribution(path)
    assert values.tolist() == [1, 2]
    assert shares.tolist() == [0.5, 1.0]
    path.write_text("1,0.9\n2,0.5\n", encoding="utf-8")
    with pytest.raises(TraceError):
        read_distribution(path)
