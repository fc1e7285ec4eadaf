"""Distributed training on torchrun, NCCL or Gloo, and FSDP2: process environment, collectives, strategies, launcher."""
