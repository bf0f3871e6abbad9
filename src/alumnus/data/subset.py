"""A part of a source, or a source under another name."""

from collections.abc import Mapping, Sequence

import numpy as np

from alumnus.data.batch import Sample, Source, named_fields

__all__ = ["Subset"]


class Subset:
    """The samples `indices` of a source, in that order; names and labels pass through."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
        *,
        name: str | None = None,
        domain: str | None = None,
        generic: bool | None = None,
    ) -> None:
        self.source = source
        self.indices = np.asarray(range(len(source)) if indices is None else indices, np.int64)
        self.name = source.name if name is None else name
        self.domain = source.domain if domain is None else domain
        self.generic = source.generic if generic is None else generic

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    @property
    def field_names(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the values of single fields; see `names_of`."""
        return named_fields(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def identity(self, index: int) -> str:
        return self.source.identity(int(self.indices[index]))

    def read(self, index: int) -> Sample:
        return self.source.read(int(self.indices[index]))
