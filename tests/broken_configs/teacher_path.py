# Reason: teacher config nowhere/teacher.py does not exist
_base_ = './_base_/good.py'
model = dict(teacher='nowhere/teacher.py')
