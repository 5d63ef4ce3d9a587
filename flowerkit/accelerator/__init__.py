"""The device: what the machine has, what follows from it, and the start of a TPU, GPU or CPU.

Nothing here imports a framework before `connect`, and nothing knows of data, models or training.

    machine     what is here: device files, modules, versions, free memory, cores
    detection   from what is here to device, Keras backend and reason; a pure function
    device      TPU detection and strategy: `connect` starts the device, once a process
    programs    what JAX compiles, ahead and in threads
    topology    what JAX compiles for a TPU that is not here, and what it would need there
    meeting     several hosts: which this is, by options or launcher, and how all meet
    hosts       several hosts that train one model: what host 0 tells the others
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "device": "Accelerator POLICIES choose_backend connect is_out_of_memory",
        "detection": "BACKENDS detect",
        "programs": "Program batch_spec is_compiling keep_compilations "
        "wait_for_programs without_garbage_collection",
        "topology": "find_topology",
        "meeting": "find_hosts",
        "machine": "collect_evidence free_memory_bytes num_cores versions",
    },
)
