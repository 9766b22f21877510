_base_ = ['./mobileone.py', './progressive.py', './schedule_300e.py']
