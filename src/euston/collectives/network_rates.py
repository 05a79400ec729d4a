"""What a NIC delivers to a collective library: achieved share of the wire and latency per step.

Constants of NCCL and of published measurements, none fitted on training runs.
"""

from __future__ import annotations

__all__ = ["P2P_LATENCY", "SCALE_OUT_EFFICIENCY", "SCALE_OUT_STEP_LATENCY", "SM_SHARE"]

# Bus bandwidth over NIC bandwidth at GiB messages: 0.76 (4x8 B200) to 0.85 (stas00/ml-engineering, network).
SCALE_OUT_EFFICIENCY = 0.8

# NCCL tuning.cc, network ring, Simple protocol: 14 us per step.
SCALE_OUT_STEP_LATENCY = 14e-6

# Send and receive between pipeline stages: launch and rendezvous beside the wire (NCCL Simple, one step).
P2P_LATENCY = 15e-6

# Compute lost while a collective's kernels run: 0.15 for NVLink rings, 0.02 for NIC-only traffic
# (calculon-ai/calculon system files; DeepSeek-V3 gives 20 of 132 SMs = 0.15 to communication).
SM_SHARE = {"scale_up": 0.15, "scale_out": 0.02}
