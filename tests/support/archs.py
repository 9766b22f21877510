"""The archs that tests run over, and their sizes."""
import pytest

# All of them; those between run with the slow tests.
ARCH_PARAMS = ['s0', *(pytest.param(f's{i}', marks=pytest.mark.slow) for i in (1, 2, 3)), 's4']
# Golden: train and deploy parameters of the backbone.
PARAMETERS = {
    's0': (4_268_272, 1_053_504), 's1': (3_544_192, 3_483_840), 's2': (5_835_648, 5_759_168),
    's3': (8_121_600, 8_029_312), 's4': (12_902_248, 12_789_352),
}
