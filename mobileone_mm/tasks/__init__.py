"""What configs import, which needs mmdet, mmseg or mmpretrain."""
