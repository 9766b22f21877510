_base_ = ['./mobileone.py', './progressive_autoaugment.py', './schedule_300e.py']
