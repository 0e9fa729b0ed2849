"""The numbers of Kaldi's log-mel features, which training and service share; knows no torch.

As AST takes them (Gong et al., 2021, arXiv 2104.01778): a frame of 25 ms every 10 ms, its mean taken off, pre-emphasis,
a Hann window, the power spectrum, triangular bins of the mel scale from 20 Hz on, the logarithm.
"""

FRAME_SECONDS, HOP_SECONDS = 0.025, 0.010
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
SMALLEST_ENERGY = 1.1920928955078125e-07  # float32's epsilon, below which no energy is taken to the logarithm


def frame_size(rate: int) -> int:
    """Samples of one frame at `rate` samples per second."""
    return int(rate * FRAME_SECONDS)


def hop_size(rate: int) -> int:
    """Samples from the start of one frame to that of the next."""
    return int(rate * HOP_SECONDS)


def fft_size(rate: int) -> int:
    """The power of two that a frame is filled up to."""
    return 1 << (frame_size(rate) - 1).bit_length()


def num_frames(num_samples: int, rate: int) -> int:
    """Frames that fit into so many samples."""
    return max(0, 1 + (num_samples - frame_size(rate)) // hop_size(rate))
