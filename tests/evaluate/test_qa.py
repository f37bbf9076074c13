"""Questions of public benchmarks: every form of file is read, every video once, what is missing is named."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from ringvision.errors import UserError
from ringvision.evaluate.earlier import read_earlier
from ringvision.evaluate.qa import KIND, QaSettings, choose, evaluate_qa
from ringvision.evaluate.qa_answers import chosen_letter, is_right, plain_words, prompt
from ringvision.evaluate.qa_formats import VideoQuestion, read_questions
from ringvision.evaluate.qa_videos import find_videos

MME = [
    {
        "video_id": "001", "duration": length, "domain": domain, "sub_category": "x", "url": "https://x/y",
        "videoID": video, "question_id": f"{number}-1", "task_type": "Counting Problem",
        "question": "How many?", "options": ["A. Two.", "B. Three.", "C. Four.", "D. None."],
        "answer": answer,
    }
    for number, (video, length, domain, answer) in enumerate(
        [("abc", "short", "Sports", "A"), ("def", "long", "Sports", "B"), ("abc", "short", "Art", "D")]
    )
]  # fmt: skip


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


class Teller:
    """Says what it is told to by video and question, and counts how often a video is read."""

    tokenizer = SimpleNamespace(size=64, hash="t")
    model = SimpleNamespace(hash="m")

    def __init__(self, says: dict[str, str], stops: int = -1) -> None:
        self.says = says
        self.batches: list[tuple[str, list[str]]] = []
        self.stops = stops

    def ask_many(
        self, videos: Any, questions: Sequence[str], fps: float = 1.0, *, max_tokens: int = 0
    ) -> Any:
        if len(self.batches) == self.stops:
            raise KeyError
        (path,) = videos
        self.batches.append((path.stem, list(questions)))
        if "damaged" in path.stem:
            raise UserError(f"{path.name} is damaged")
        return [SimpleNamespace(text=self.says[path.stem], frames=7, video_tokens=99) for _ in questions]


def test_video_mme_by_duration_domain_and_kind(tmp_path: Path) -> None:
    table = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(MME), table)
    form, questions = read_questions(table)
    assert form == "video-mme" and questions[0].options == ("Two.", "Three.", "Four.", "None.")
    assert read_questions(write(tmp_path / "mme.json", MME)) == (form, questions)
    lines = write(tmp_path / "mme.jsonl", "\n".join(map(json.dumps, MME)))
    assert read_questions(lines) == (form, questions)
    videos = {"abc": tmp_path / "abc.mp4"}
    teller = Teller({"abc": "A."})
    result = evaluate_qa(teller, form, questions, videos, out=tmp_path / "out", command="x y", progress=None)
    assert len(teller.batches) == 1 and teller.batches[0][1][0].endswith(
        "How many?\nA. Two.\nB. Three.\nC. Four.\nD. None.\nAnswer with the letter alone."
    )
    assert (result["accuracy"], result["examples"], result["chance"]) == (0.5, 2, 0.25)
    assert result["duration"] == {"short": {"accuracy": 0.5, "examples": 2}}
    assert result["category"]["Sports"]["accuracy"] == 1.0 and result["category"]["Art"]["accuracy"] == 0.0
    assert result["missing"] == {"videos": ["def"], "questions": 1}
    record = result["record"]
    assert (record["fps"], record["pixels"], record["model"]) == (1.0, 64, "m")
    assert record["read"] == {"frames": 7, "tokens": 99} and record["runs"][0]["command"] == "x y"
    text = (tmp_path / "out" / "result.md").read_text()
    assert "| duration: short | 50.0% | 2 |" in text and "Not there: 1 videos with 1 questions: def." in text


def test_activitynet_answers_are_joined_by_question_id(tmp_path: Path) -> None:
    asked = [{"video_name": "v1", "question": f"what {n}", "question_id": f"v_v1_{n}"} for n in range(2)]
    told = [{"answer": f"a {n}", "type": 3 + n, "question_id": f"v_v1_{n}"} for n in (1, 0)]
    path = write(tmp_path / "test_q.json", asked)
    with pytest.raises(UserError, match="give their file as --answers"):
        read_questions(path)
    write(tmp_path / "test_a.json", told)
    form, questions = read_questions(path)
    assert form == "activitynet-qa"
    assert [(one.answer, one.kind) for one in questions] == [("a 0", "yes or no"), ("a 1", "colour")]
    assert read_questions(tmp_path) == (form, questions)  # the folder's one file of questions
    with pytest.raises(UserError, match=r"1 of 2 questions have no answer, 'v_v1_1' among them"):
        read_questions(path, answers=write(tmp_path / "b.json", told[1:]))


def test_msvd_msrvtt_tgif_and_lvbench(tmp_path: Path) -> None:
    row = {"id": 5, "video_id": 1451, "question": "who is it?", "answer": "man"}
    form, (one,) = read_questions(write(tmp_path / "a.json", [row]))
    assert form == "msvd-qa" and one == VideoQuestion("5", "1451", "who is it?", "man", kind="who")
    form, (one,) = read_questions(write(tmp_path / "b.json", [{**row, "category_id": 14}]))
    assert form == "msrvtt-qa" and one.category == "14"
    names = ["gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key"]
    values = ["tumblr", 'do "what', "b", "c", "d", "e", "f", "4", "X", "1"]
    choice = "\t".join(names) + "\n" + "\t".join(values) + "\n"
    form, (one,) = read_questions(write(tmp_path / "c.csv", choice))
    assert form == "tgif-qa" and (one.video, one.answer, one.options) == ("tumblr", "E", tuple("bcdef"))
    assert one.text == 'do "what' and one.key == "1"
    frames = write(tmp_path / "d.tsv", "gif_name\tquestion\tanswer\ttype\tvid_id\nt\twhat?\tred\t2\tX\n")
    assert read_questions(frames)[1][0].kind == "colour"
    held = io.StringIO()
    csv.writer(held).writerows([["gif_name", "question", "answer"], ["t", "how often, here?", "3"]])
    assert read_questions(write(tmp_path / "e.csv", held.getvalue()))[1][0].kind == "count"
    question = {"uid": "7", "question": "What?\n(A) one\n(B) two\n(C) three\n(D) four", "answer": "C",
                "question_type": ["reasoning", "summarization"], "time_reference": "00:15-00:19"}  # fmt: skip
    meta = write(
        tmp_path / "video_info.meta.jsonl", json.dumps({"key": "k", "type": "cartoon", "qa": [question]})
    )
    form, (one,) = read_questions(meta)
    assert form == "lvbench" and (one.key, one.text, one.options[2]) == ("k/7", "What?", "three")
    assert (one.time_reference, one.category) == ("00:15-00:19", "cartoon")
    flat = write(tmp_path / "f.json", [{"key": "k", **question}])
    assert read_questions(flat)[1][0].options == one.options
    result = evaluate_qa(Teller({"k": "C"}), form, [one], {"k": Path("k")}, progress=None)
    assert result["kind"].keys() == {"reasoning", "summarization"} and result["choices"] == 1.0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[]", "holds no question"),
        ("", "holds no question"),
        ("{", "cannot be read as JSON"),
        ("[1]", "something else than objects"),
        ('[{"a": 1}]', "the fields a, which are those of no format"),
        ([{**MME[0], "answer": "E"}], "answer is 'E'; expected a letter from A to D"),
        ([{**MME[0], "options": "A. b"}], "options is 'A. b'; expected a list"),
        ([{**MME[0], "question": None}], "question 1: question is missing; expected text"),
        ([MME[0], MME[0]], "the id '0-1' comes twice"),
        ([{**MME[0], "question_id": ["x"]}], "question_id is ['x']"),
        ([{"video_name": "v", "question": "q", "question_id": {}, "answer": "x"}], "question_id is {}"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('[{"gif_name": "x", "question": "q", "a1": "b", "a2": "c", "answer": "7"}]', "a number below 2"),
    ],
)
def test_a_bad_file_is_one_line(value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_questions(write(tmp_path / "q.json", value))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_questions(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r"ends in \.json"):
        read_questions(write(tmp_path / "q.txt", "x"))
    with pytest.raises(UserError, match="line 2: 2 fields where the first line names 3"):
        read_questions(write(tmp_path / "q.csv", "gif_name\tquestion\tanswer\na\tb\n"))
    with pytest.raises(UserError, match="not UTF-8"):
        (tmp_path / "r.csv").write_bytes(b"gif_name\xff")
        read_questions(tmp_path / "r.csv")
    with pytest.raises(UserError, match=r"holds 2 files of questions \(q.csv, r.csv\)"):
        read_questions(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds 0 files of questions \(none\)"):
        read_questions(tmp_path / "empty")
    with pytest.raises(UserError, match="did you mean msvd-qa"):
        read_questions(write(tmp_path / "s.json", MME), "msvd-q")


def test_videos_are_found_by_the_names_of_their_benchmark_and_never_outside(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    for name in ("v_abc.mkv", "video7010.mp4", "deep/plain.webm", "clip_1_2.avi", "notes.txt"):
        (folder / name).write_bytes(b"")
    (tmp_path / "secret.mp4").write_bytes(b"")
    write(folder / "youtube_mapping.txt", "clip_1_2 vid12\n")
    names = [
        "abc",
        "7010",
        "plain.webm",
        "12",
        "notes",
        "../secret",
        str(tmp_path / "secret"),
        "gone",
        "gone",
    ]
    found, missing = find_videos(folder, names)
    assert {name: path.name for name, path in found.items()} == {
        "abc": "v_abc.mkv", "7010": "video7010.mp4", "plain.webm": "plain.webm", "12": "clip_1_2.avi",
    }  # fmt: skip
    assert missing == ["notes", "../secret", str(tmp_path / "secret"), "gone"]
    with pytest.raises(UserError, match="has none of the 1 videos, such as 'gone'"):
        find_videos(folder, ["gone"])
    with pytest.raises(UserError, match="is no folder"):
        find_videos(folder / "nowhere", ["gone"])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), (" (b). ", "B"), ("B. a man", "B"), ("(C) the sea", "C"),
        ("The answer is (B), I think", "B"),
        ("Option C", "C"), ("A man", "A"), ("a man.", "A"), ("It is a dog that runs", "B"), ("the sea", "C"),
        ("a man and a dog", None), ("E", None), ("", None), ("I do not know", None),
        ("The answer is a dog", "B"),
    ],
)  # fmt: skip
def test_which_option_an_answer_means(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer, ("a man", "dog", "sea")) == letter


def test_open_answers_are_compared_by_their_words() -> None:
    question = VideoQuestion("1", "v", "how many?", "two dogs")
    assert prompt(question) == "how many?"
    for answer in ("2 dogs", "The two dogs.", "TWO  DOGS!"):
        assert is_right(question, answer)
    for answer in ("dogs", "two dog", "two dogs run", ""):
        assert not is_right(question, answer)
    assert plain_words("It's a man, an Apple_tree") == "its man apple tree"


def test_a_run_goes_on_and_tries_again_what_could_not_be_read(tmp_path: Path) -> None:
    questions = [VideoQuestion(f"{number}", f"v{number % 3}", "what?", "yes") for number in range(60)]
    videos = {"v0": Path("v0.mp4"), "v1": Path("damaged1.mp4"), "v2": Path("v2.mp4")}
    says = {"v0": "yes", "v2": "no", "v1": "yes"}
    with pytest.raises(KeyError):
        evaluate_qa(Teller(says, 1), "msvd-qa", questions, videos, out=tmp_path, progress=None)
    said = io.StringIO()
    teller = Teller(says)
    result = evaluate_qa(teller, "msvd-qa", questions, videos, out=tmp_path, progress=said)
    # 20 questions a video, at most 16 together, of which the first 16 were answered before
    assert [(name, len(asked)) for name, asked in teller.batches][:1] == [("v0", 4)]
    assert (result["accuracy"], result["examples"]) == (0.5, 40) and result["chance"] is None
    assert result["unreadable"] == {"v1": "damaged1.mp4 is damaged"}
    assert "v1 (damaged1.mp4 is damaged)" in (tmp_path / "result.md").read_text()
    videos["v1"] = Path("v1.mp4")
    again = Teller(says)
    result = evaluate_qa(again, "msvd-qa", questions, videos, out=tmp_path, progress=None)
    assert {name for name, _ in again.batches} == {"v1"} and result["unreadable"] == {}
    assert result["examples"] == 60 and len((tmp_path / "results.jsonl").read_text().splitlines()) == 60
    with pytest.raises(UserError, match="fps is 1"):
        evaluate_qa(again, "msvd-qa", questions, videos, QaSettings(fps=2.0), out=tmp_path, progress=None)
    with pytest.raises(UserError, match="no video could be read: damaged1"):
        evaluate_qa(Teller(says), "msvd-qa", questions, {"v1": Path("damaged1.mp4")}, progress=None)
    beside = evaluate_qa(
        Teller(says),
        "msvd-qa",
        questions,
        videos,
        out=tmp_path / "b",
        earlier=read_earlier([str(tmp_path)], KIND),
        progress=None,
    )
    assert beside["scores"]["all"] == pytest.approx(2 / 3)
    assert "| all | 66.7% | 66.7% |" in (tmp_path / "b" / "result.md").read_text()


def test_some_questions_are_those_of_whole_videos_drawn_by_the_seed() -> None:
    questions = [VideoQuestion(f"{number}", f"v{number % 50}", "what?", "yes") for number in range(200)]
    some = choose(questions, QaSettings(examples=8, seed=1))
    assert len(some) == 8 and len({one.video for one in some}) == 2
    assert (
        some == choose(questions, QaSettings(examples=8, seed=1)) != choose(questions, QaSettings(examples=8))
    )
    assert len(choose(questions, QaSettings())) == 200
    with pytest.raises(UserError, match="examples 0"):
        QaSettings(examples=0)
