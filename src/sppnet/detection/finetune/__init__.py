"""Fine-tuning on the proposals of labelled images.

``head.py`` teaches fc6 and fc7 on cached maps, as the paper does; ``network.py`` teaches the
convolutions, too, through the pooling, and ``batches.py`` draws what it is shown in an update. Both
are tasks of ``sppnet.training.trainer``.
"""
