"""Which training instances are benchmark instances: a model that learnt from them must not be scored on them.

By rule, without any data file: instance ids of the twelve repositories of SWE-bench's test split (`django__django-123`,
also with the number of a run behind it), which Verified and Lite are drawn from. Exact lists (files or data sets with
`instance_id`) are used beside it when given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent_srl.data.formats.files import find_records
from agent_srl.errors import DataError

RULE = "instance ids of the twelve repositories of SWE-bench's test split, which Verified and Lite are drawn from"
REPOSITORIES = (
    "astropy__astropy",
    "django__django",
    "matplotlib__matplotlib",
    "mwaskom__seaborn",
    "pallets__flask",
    "psf__requests",
    "pydata__xarray",
    "pylint-dev__pylint",
    "pytest-dev__pytest",
    "scikit-learn__scikit-learn",
    "sphinx-doc__sphinx",
    "sympy__sympy",
)
_ID = re.compile(rf"({'|'.join(map(re.escape, REPOSITORIES))})-\d+(_\d+)?")


class Benchmark:
    """Tells benchmark instances by the rule and by exact lists."""

    def __init__(self, lists: Iterable[str] = ()) -> None:
        """Raises DataError where a list cannot be read or names no instance."""
        self._ids = {instance for name in lists for instance in _ids(name)}
        self.rule = RULE + (f", and {len(self._ids)} listed ids" if self._ids else "")

    def holds(self, instance_id: str) -> bool:
        """Whether the instance is a benchmark's."""
        return instance_id in self._ids or _ID.fullmatch(instance_id) is not None


def _ids(name: str) -> set[str]:
    rows = [value for _, value in find_records(name) if isinstance(value, dict)]
    ids = {str(row["instance_id"]) for row in rows if row.get("instance_id")}
    if not ids:
        raise DataError(f"{name} names no instance: each row needs `instance_id`")
    return ids
