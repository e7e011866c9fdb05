"""The benchmark: random models of the real shapes, measured generations, and tables and plots of the results.

synthetic       writes a model with random weights
case            what is measured: one combination of mode, budget, size, quality, and their order
runner          gives cases to worker processes and appends a JSON line per run; needs no torch
worker          a process that measures cases with one mode and budget
measure         one measured generation; `flops`, `machine`, `busy` are its parts
results         the file of JSON lines, and its summary per case
table, compare, plot     what is made of it
"""
