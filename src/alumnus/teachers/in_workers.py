"""Teachers that run on the host: in the data workers, beside those on the device."""

from alumnus.data import Batch
from alumnus.teachers.pool import TeacherBatch, TeacherPool
from alumnus.tokens import Tokens

__all__ = ["PoolWithWorkers"]


class PoolWithWorkers:
    """Stands in for a TeacherPool: the targets of host teachers come with the batch.

    `host` is what the workers call, once for each batch, whoever makes it; so the targets are as
    much a function of the position as the images are. The numbers are those of `pool.targets`.
    """

    def __init__(self, pool: TeacherPool) -> None:
        on_host = [name for name, t in pool.teachers.items() if t.runs_on == "host"]
        others = [name for name in pool.teachers if name not in on_host]
        self.names = tuple(pool.teachers)
        self.host = pool.subset(on_host)
        self.live = pool.subset(others) if others else None

    def targets(self, batch: TeacherBatch) -> dict[str, Tokens]:
        """The teachers' tokens, in the order of the pool.

        A batch from elsewhere, such as held-out images, brings none: host teachers run here then.
        """
        given = batch.targets if isinstance(batch, Batch) else None
        tokens = dict(self.host.targets(batch) if given is None else given)
        if self.live is not None:
            tokens |= self.live.targets(batch)
        return {name: tokens[name] for name in self.names}
