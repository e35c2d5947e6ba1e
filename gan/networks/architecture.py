"""The numbers of pix2pix's two networks (Isola et al. 2017, section 6.1). Reading them loads no torch."""

LEAK = 0.2  # slope below 0 of the leaky ReLUs
MAX_WIDTH = 8  # channels of the widest layers, in multiples of the first layer's

# Convolutions of stride 2 in a discriminator, by its receptive field in pixels. The last two layers see 7 pixels, and
# each strided layer before them turns r pixels into 2 r + 2.
NUM_STRIDED_LAYERS = {16: 1, 70: 3, 286: 5}
