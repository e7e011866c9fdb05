"""One clip on several GPUs: each process computes some of the guided passes of every step.

The process that opened the pipeline is rank 0. It does everything else too: text, sound, picture, stage 2, decoding and
writing. `Helpers` starts one process for each further device (`helper.py`) and watches them. `split_passes` says who
computes what, and an `Exchange` brings the predictions together, from which every process takes the same step.
"""
