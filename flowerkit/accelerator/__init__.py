"""The device: what the machine has, what follows from it, and the start of a TPU, GPU or CPU.

Nothing here imports a framework before `connect`, and nothing knows of data, models or training.

    machine     what is here: device files, modules, versions, free memory, cores
    detection   from what is here to device, Keras backend and reason; a pure function
    device      TPU detection and strategy: `connect` starts the device, once a process
    programs    what JAX compiles, ahead and in threads
    topology    what JAX compiles for a TPU that is not here, and what it would need there
    hosts       several hosts that train one model: who this is, what host 0 tells the others
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Accelerator": "device",
        "BACKENDS": "detection",
        "POLICIES": "device",
        "choose_backend": "device",
        "connect": "device",
        "is_out_of_memory": "device",
        "Program": "programs",
        "batch_spec": "programs",
        "find_topology": "topology",
        "is_compiling": "programs",
        "keep_compilations": "programs",
        "wait_for_programs": "programs",
        "without_garbage_collection": "programs",
        "collect_evidence": "machine",
        "detect": "detection",
        "free_memory_bytes": "machine",
        "num_cores": "machine",
        "versions": "machine",
    },
)
