# Reason: architecture config nowhere/student.py does not exist
_base_ = './_base_/good.py'
model = dict(architecture='nowhere/student.py')
