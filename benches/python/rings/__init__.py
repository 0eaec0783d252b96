"""The parts of ``bench_rings.py``: the road, the receivers, the races, memory and heap."""
