"""From what a user names to Records: a file, a folder, a pattern, or a data set of TFDS.

    notes.txt  notes/  "notes/**/*.md"     a record a file, or a record between separators
    c4.jsonl.gz  "c4/*.jsonl"  part.parquet
    saved/                                 what `datasets` saved (save_to_disk), one split of it
    tfds:NAME/SPLIT

Files of a folder or pattern come in the order of their paths; they must be of one format. Folders are
entered, but no links to folders. Nothing is fetched.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ringvision.data.records.base import Records, Several
from ringvision.data.records.byte_files import unreadable
from ringvision.data.records.tables import ArrowTable, open_parquet
from ringvision.data.records.text_files import JsonLines, SeparatedText, WholeFiles
from ringvision.data.records.tfds_records import TfdsRecords
from ringvision.data.tfds import PREFIX
from ringvision.errors import UserError
from ringvision.untrusted_files import read_object

JSON = ("jsonl", "ndjson", "json")
TEXT = ("txt", "text", "md", "markdown", "rst", "tex")
PACKED = ("gz", "zst", "xz", "bz2", "zip", "tar", "tgz", "7z")
SAVED = "state.json"
SEVERAL_SAVED = "dataset_dict.json"
AGAIN = "save the data set again (save_to_disk)"


def open_records(path: str, *, columns: Sequence[str], separator: str = "", split: str = "train") -> Records:
    """The records that `path` names.

    Args:
        path: a file, a folder, a pattern, or tfds:NAME/SPLIT.
        columns: the fields that are wanted; of tables no others are read.
        separator: what stands between the records of text files; "": a file is a record.
        split: which split of what `datasets` saved.

    Returns:
        The records, at least one.

    Raises:
        UserError: there is none, files are of several formats or damaged.
    """
    if path.startswith(PREFIX):
        records: Records = TfdsRecords(path)
    else:
        files = _files(os.path.expanduser(path), split)
        forms = sorted({_form(file) for file in files})
        if len(forms) > 1:
            raise UserError(
                f"{path} holds files of several formats ({', '.join(forms)}); give a pattern that takes one, "
                f"such as {os.path.join(path if os.path.isdir(path) else 'FOLDER', '**', '*.' + forms[0])}"
            )
        records = _open(path, files, forms[0], columns, separator)
    if not len(records):
        raise UserError(f"{path} holds no record; give one that has text in it")
    return records


def _open(path: str, files: Sequence[str], form: str, columns: Sequence[str], separator: str) -> Records:
    if form == "txt" and not separator:
        return WholeFiles(path, files)
    if separator and form != "txt":
        raise UserError(f"{path} is {form}, whose records need no separator; leave it out")
    parts: list[Records] = []
    for file in files:
        if form == "txt":
            parts.append(SeparatedText(file, separator, len(files)))
        elif form == "jsonl":
            parts.append(JsonLines(file, len(files)))
        elif form == "parquet":
            parts.append(open_parquet(file, columns, len(files)))
        else:
            parts.append(ArrowTable(file, file, columns))
    return parts[0] if len(parts) == 1 else Several(path, parts)


def _files(path: str, split: str) -> list[str]:
    """The files that a path names, in their order; at least one."""
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, SEVERAL_SAVED)):
            path = os.path.join(path, _saved_split(path, split))
        if os.path.isfile(os.path.join(path, SAVED)):
            return _saved_files(path)
        found = _walk(path)
        if not found:
            raise UserError(
                f"{path} holds no file of text; expected some that end in "
                f"{', '.join('.' + ending for ending in (*TEXT[:3], 'jsonl', 'parquet', 'arrow'))}"
            )
        return found
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        raise UserError(
            f"{path}: no such file or folder, and no file of such a pattern; give one that is there"
        )
    return found


def _walk(folder: str) -> list[str]:
    """All files of a folder that hold records by their names. Hidden ones are left out, and .json, which in
    folders is rather what describes them.
    """

    def fail(error: OSError) -> None:
        raise unreadable(folder, error)

    found = []
    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = (name for name in names if not name.startswith(".") and not name.endswith(".json"))
        found += [os.path.join(where, name) for name in visible if _by_name(name)]
    return sorted(filter(os.path.isfile, found))


def _by_name(path: str) -> str:
    """The format that the ending of a name tells; "" for an ending that tells none."""
    stem, _, ending = path.lower().rpartition(".")
    if ending == "gz":
        ending = stem.rpartition(".")[2]
        return "jsonl" if ending in JSON else "txt" if ending in TEXT else ""
    for form, endings in (("jsonl", JSON), ("txt", TEXT), ("parquet", ("parquet",)), ("arrow", ("arrow",))):
        if ending in endings:
            return form
    return ""


def _form(path: str) -> str:
    """The format of a file that a user named: text where its name tells nothing else."""
    ending = path.lower().rpartition(".")[2]
    if not _by_name(path) and ending in PACKED:
        raise UserError(f"{path} is packed; unpack it (.jsonl.gz alone is read as it is)")
    return _by_name(path) or "txt"


def _saved_split(folder: str, split: str) -> str:
    """The subfolder of a split of a DatasetDict."""
    splits = read_object(os.path.join(folder, SEVERAL_SAVED), AGAIN).get("splits")
    names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
    if split not in names:
        raise UserError(f"{folder} has no split {split!r}; give one of {', '.join(names) or 'those it has'}")
    return split


def _saved_files(folder: str) -> list[str]:
    """The Arrow files of a Dataset, in their order. What state.json names must lie in the folder itself."""
    held = read_object(os.path.join(folder, SAVED), AGAIN).get("_data_files")
    entries = held if isinstance(held, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or _by_name(name) != "arrow":
            raise UserError(f"{folder}/{SAVED} names {name!r:.80}, expected an Arrow file beside it; {AGAIN}")
    if not names:
        raise UserError(f"{folder}/{SAVED} names no file; {AGAIN}")
    return [os.path.join(folder, str(name)) for name in names]
