# Reason: class 0 is 'cat' for the teacher and 'dog' in the dataset
_base_ = './_base_/good.py'
train_dataloader = dict(dataset=dict(metainfo=dict(classes=('dog', 'cat', 'bus'))))
