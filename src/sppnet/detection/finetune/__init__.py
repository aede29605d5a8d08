"""Fine-tuning on the proposals of labelled images.

``head.py`` draws what is shown in an update and teaches fc6 and fc7 on cached maps, as the paper
does; ``network.py`` teaches the convolutions, too, through the pooling. Both are tasks of
``sppnet.training.trainer``.
"""
