"""Reading checkpoints: find the newest intact one, verify it, compare it with the expected state, and read it.

All bytes of a checkpoint are verified before any is interpreted. The stored state is compared with the expected state
leaf by leaf before it is read, since Orbax would silently cast float32 to bfloat16. This module does not create, move
or delete files, and cannot execute code from one.
"""

import math
import re
from pathlib import Path
from typing import Any

import jax

from diffusion.checkpoints.folders import Say, StepFolders
from diffusion.checkpoints.manifest import FORMAT, failed, mode_of
from diffusion.checkpoints.stored import differences, entries, storable_template
from diffusion.runtime.distributed import first_process
from diffusion.runtime.exits import CheckpointError, ReadError, cannot_read
from diffusion.runtime.progress import nobody
from diffusion.runtime.reading import MAX_BYTES, check_plain, read_json, unpacked_limit
from diffusion.training.state import TrainState, data_to_keys
from diffusion.types import Params

# as TensorStore writes it
_NUMBER = re.compile(r"os[_ ]error(?:_code=')? ?([0-9]{1,3})\b", re.IGNORECASE)
_JSON_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "_sharding")  # written by Orbax


class CheckpointReader:
    """The checkpoints of a run, for reading. Also a context manager.

    With several processes, all of them have to call every method, in the same order.

    Attributes:
        directory: folder of the checkpoints of one run. It need not exist.
    """

    _moves = False  # whether damaged checkpoints are moved aside

    def __init__(self, directory: str | Path, *, say: Say = nobody):
        """Open a folder for reading.

        Args:
            directory: the folder.
            say: called with a message about every damaged checkpoint.
        """
        import orbax.checkpoint as ocp
        from etils import epath  # the path class of Orbax

        self.directory = Path(directory).absolute()
        self._folders, self._say = StepFolders(self.directory), say
        self._args, self._construct = ocp.args, ocp.checkpoint_utils.construct_restore_args
        self._as_path = epath.Path
        self._handler = ocp.PyTreeCheckpointHandler()
        self._verified: set[int] = set()  # steps verified by this object since the last read

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        self._handler.close()

    def steps(self) -> tuple[int, ...]:
        """Return the steps that have a complete checkpoint, oldest first; none is verified."""
        return self._folders.steps()

    def latest_step(self) -> int | None:
        """Return the newest step that has a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def recover(self) -> int | None:
        """Return the newest step whose checkpoint is intact, or None if nothing was ever saved.

        Damaged newer checkpoints are reported, and moved aside if the folder is open for writing.

        Raises:
            CheckpointError: there are checkpoints, but all of them are damaged; they are not changed.
            ReadError: a checkpoint that may be the newest cannot be read; nothing is moved.
        """

        def find() -> int:
            found = self._folders.newest(self._say, move=self._moves, known=self._verified)
            return 0 if found is None else found + 1

        step = first_process(find) - 1
        if step < 0:
            return None
        self._verified.add(step)
        return step

    def path(self, step: int) -> Path:
        """Return the folder of a complete checkpoint.

        Raises:
            CheckpointError: there is no checkpoint of this step.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"No checkpoint of step {step} in {self.directory}; there are: {self.steps()}."
            )
        return self._folders.path(step)

    def verify(self, step: int) -> Path:
        """Check a checkpoint against its manifest, and return its folder.

        Raises:
            CheckpointError: there is no checkpoint of this step, or it is damaged; the message gives the reason.
        """
        folder = self.path(step)
        if step not in self._verified:
            first_process(lambda: int(self._folders.verify(step)))
            self._verified.add(step)
        return folder

    def meta(self, step: int) -> dict[str, Any]:
        """Return the metadata of a checkpoint: format, step, config, versions, devices."""
        folder = self.verify(step)
        file = folder / "meta.json"
        try:
            meta = read_json(file if mode_of(file) else folder / "meta" / "metadata")
        except OSError as error:
            raise failed(error, file, "metadata") from None
        except ValueError as error:
            raise CheckpointError(f"Checkpoint {folder} cannot be read: {error}") from None
        if not isinstance(meta, dict) or not isinstance(meta.get("config"), dict):
            raise CheckpointError(f"Checkpoint {folder} cannot be read: it names no config")
        if meta.get("step", step) != step:
            raise CheckpointError(f"Checkpoint {folder} is of step {str(meta['step'])[:20]}.")
        if (given := meta.get("format")) not in (1, FORMAT):
            raise CheckpointError(
                f"Checkpoint {folder} has format {str(given)[:20]}, not 1 or {FORMAT}; "
                f"it was written by {str(meta.get('versions'))[:300]}."
            )
        return meta

    # ---- reading --------------------------------------------------------------------------------

    def _stored(self, step: int) -> Any:
        """Return shapes and types of the stored state, as nested dictionaries and lists."""
        self.meta(step)  # checks the format before anything is interpreted
        state = self.path(step) / "state"
        described = [state / name for name in _JSON_FILES] + sorted(state.glob("array_metadatas/*"))
        try:
            for file in described:  # Orbax reads all of them, regardless of their size
                if check_plain(file):
                    read_json(file, 4 * MAX_BYTES)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"Checkpoint {state.parent} cannot be read: {error}") from None
        try:
            return self._handler.metadata(self._as_path(self.path(step) / "state")).tree
        except Exception as error:  # Orbax raises many kinds
            raise self._unreadable(step, error) from error

    def count_arrays(self, step: int) -> int:
        """Return the number of arrays of the stored parameters.

        Raises:
            CheckpointError: there is no such checkpoint, or it cannot be read.
        """
        leaf = lambda x: hasattr(x, "shape")
        return len(jax.tree.leaves(self._stored(step)["params"], is_leaf=leaf))

    def _check_room(self, step: int, target: Any) -> None:
        """Raise CheckpointError if the stated sizes of arrays exceed the files: reading would allocate this memory."""
        claimed = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(target))
        try:
            size = sum(f.lstat().st_size for f in self.path(step).rglob("*") if f.is_file())
        except OSError as error:
            raise self._unreadable(step, error) from error
        if claimed > unpacked_limit(size):
            raise CheckpointError(
                f"Checkpoint {self.path(step)} claims {claimed >> 20} MiB of arrays in {size >> 20} MiB of files."
            )

    def _read(self, step: int, target: Any, *, partial: bool) -> Any:
        self._check_room(step, target)
        arguments = self._args.PyTreeRestore(
            item=target, restore_args=self._construct(target), partial_restore=partial
        )
        try:
            return self._handler.restore(self._as_path(self.path(step) / "state"), args=arguments)
        except Exception as error:  # Orbax raises many kinds
            raise self._unreadable(step, error) from error
        finally:
            self._verified.discard(step)

    def _unreadable(self, step: int, error: Exception) -> CheckpointError | ReadError:
        folder = self._folders.path(step)
        if not mode_of(folder):
            return CheckpointError(
                f"Checkpoint {folder} was deleted while it was read, by the run that trains there. Try again: "
                "there is a newer one."
            )
        if isinstance(error, ReadError):
            return error
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        text = f"Checkpoint {folder} cannot be read: {first}"
        return ReadError(f"{text}. Try again.") if _of_the_machine(error) else CheckpointError(text)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Read a state with the shapes, dtypes and shardings of `like`.

        Args:
            step: step of the checkpoint.
            like: arrays, or shapes with shardings as `layout.template` makes them. The device layout
                need not be the one that wrote the checkpoint.

        Returns:
            The state, on the devices of `like`; pass it to `layout.place_state`.

        Raises:
            CheckpointError: there is no such checkpoint, or a leaf differs in name, shape or dtype.
        """
        target = storable_template(entries(like))
        self._require_same(step, self._stored(step), target)
        return data_to_keys(TrainState(**self._read(step, target, partial=False)), like)

    def restore_params(self, step: int, ema: str | None = None, like: Params = None) -> Params:
        """Read only the parameters, onto one device, independent of the device layout that wrote them.

        Args:
            step: step of the checkpoint.
            ema: name of an average; None for the parameters themselves.
            like: arrays or shapes whose names, shapes and dtypes the parameters must match; None for no check.

        Returns:
            Nested dictionaries of arrays on the first local device.

        Raises:
            CheckpointError: there is no such checkpoint or no such average, or it does not match `like`.
        """
        stored = self._stored(step)
        if ema is not None and ema not in stored["ema"]:
            raise CheckpointError(
                f"Checkpoint {self.path(step)} has no average {ema!r}. It has: {', '.join(stored['ema']) or 'none'}."
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        chosen = stored["params"] if ema is None else stored["ema"][ema]
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            chosen,
            is_leaf=lambda x: hasattr(x, "shape"),
        )
        if like is not None:
            self._require_same(step, shapes, like)
        target = {"params": shapes} if ema is None else {"ema": {ema: shapes}}
        read = self._read(step, target, partial=True)
        return read["params"] if ema is None else read["ema"][ema]

    def _require_same(self, step: int, stored: Any, wanted: Any) -> None:
        """Raise CheckpointError if any leaf differs."""
        if wrong := differences(stored, wanted):
            shown = "\n  ".join(wrong[:10]) + (
                f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            )
            raise CheckpointError(
                f"Checkpoint {self.path(step)} does not fit this config:\n  {shown}\n"
                "Restore it with the network, optimizer and ema of its own config, which is stored beside it."
            )


def _of_the_machine(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, is an error of the operating system while reading."""
    while error is not None:
        if isinstance(error, OSError) and cannot_read(error):
            return True
        for number in _NUMBER.findall(str(error)):
            if cannot_read(OSError(int(number), "")):
                return True
        error = error.__cause__ or error.__context__
    return False
