"""Our weights under the names that other projects give them."""
import torch

TO_APPLE = [('conv_branches.', 'rbr_conv.'), ('scale_branch.', 'rbr_scale.'), ('skip_branch.', 'rbr_skip.')]
TO_MMPRETRAIN = [('.bn.', '.norm.'), ('conv_branches.', 'branch_conv_list.'), ('scale_branch.', 'branch_scale.'),
                 ('skip_branch.', 'branch_norm.'), ('reparam_conv.', 'branch_reparam.'),
                 ('se.reduce.', 'se.conv1.conv.'), ('se.expand.', 'se.conv2.conv.')]
TO_TIMM = [('conv_branches.', 'conv_kxk.'), ('scale_branch.', 'conv_scale.'), ('skip_branch.', 'identity.'),
           ('se.reduce.', 'attn.fc1.'), ('se.expand.', 'attn.fc2.'), ('stage0.', 'stem.'),
           *[(f'stage{i}.', f'stages.{i - 1}.') for i in range(1, 5)]]


def rename(state_dict, table, prefix='', classifier='linear.'):
    renamed = {}
    for key, value in state_dict.items():
        for ours, theirs in table:
            key = key.replace(ours, theirs)
        renamed[prefix + key] = value
    renamed |= {f'{classifier}weight': torch.zeros(1000, 1024), f'{classifier}bias': torch.zeros(1000)}
    return renamed
