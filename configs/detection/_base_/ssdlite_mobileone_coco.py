_base_ = ['./ssdlite_mobileone.py', './coco.py', './schedule_200e.py', './default_runtime.py']
