"""How long a boot takes: 64 GiB of emulated memory in less than a second."""

from kemu import Machine, MachineConfig


def test_boot_64_gib(benchmark):
    def boot():
        with Machine(MachineConfig(mem=64 << 30)):
            pass

    benchmark(boot)
