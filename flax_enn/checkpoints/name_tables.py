"""Tables of the names that other libraries have: see `foreign`."""

from typing import NamedTuple


class Rule(NamedTuple):
  """From an array there to a variable here; its fields are in `foreign`."""

  names: str
  path: str
  layout: str = ''
  scale: str = ''
  zero: str = ''


def _batch_norm(there: str, here: str) -> tuple[Rule, ...]:
  return (
      *_layer_norm(there, here),
      Rule(rf'{there}\.running_mean', f'batch_stats/{here}/mean'),
      Rule(rf'{there}\.running_var', f'batch_stats/{here}/var'),
      Rule(rf'{there}\.num_batches_tracked', ''),
  )


def _layer_norm(there: str, here: str) -> tuple[Rule, ...]:
  return (
      Rule(rf'{there}\.weight', f'params/{here}/scale'),
      Rule(rf'{there}\.bias', f'params/{here}/bias'),
  )


def _conv(there: str, here: str) -> Rule:
  """A convolution without a bias."""
  return Rule(rf'{there}\.weight', f'params/{here}/kernel', 'OIHW')


def _dense(there: str, here: str) -> tuple[Rule, ...]:
  return (
      Rule(rf'{there}\.weight', f'params/{here}/kernel', 'OI'),
      Rule(rf'{there}\.bias', f'params/{here}/bias'),
  )


_BLOCK = r'layer(\d+)\.(\d+)\.'
_LAYER = r'encoder\.layers\.encoder_layer_(\d+)\.'
_ATTENTION = rf'{_LAYER}self_attention\.'

TABLES: dict[str, tuple[Rule, ...]] = {
    # The thin networks of He et al. in PyTorch, whose shortcuts have no
    # parameters: `ResNet` with `padding='symmetric'`.
    'cifar_resnet': (
        _conv('conv1', 'stem'),
        *_batch_norm('bn1', 'stem_norm'),
        _conv(f'{_BLOCK}conv1', 'block_#/conv_0'),
        *_batch_norm(f'{_BLOCK}bn1', 'block_#/norm_0'),
        _conv(f'{_BLOCK}conv2', 'block_#/conv_1'),
        *_batch_norm(f'{_BLOCK}bn2', 'block_#/norm_1'),
        *_dense('(?:linear|fc)', 'out'),
    ),
    # resnet50, 101 and 152 of torchvision: `ResNet` with `padding='symmetric'`
    # and `preactivation=False`.
    'torchvision_resnet': (
        _conv('conv1', 'stem'),
        *_batch_norm('bn1', 'stem_norm'),
        _conv(f'{_BLOCK}conv1', 'block_#/conv_0'),
        *_batch_norm(f'{_BLOCK}bn1', 'block_#/norm_0'),
        _conv(f'{_BLOCK}conv2', 'block_#/conv_1'),
        *_batch_norm(f'{_BLOCK}bn2', 'block_#/norm_1'),
        _conv(f'{_BLOCK}conv3', 'block_#/conv_2'),
        *_batch_norm(f'{_BLOCK}bn3', 'block_#/norm_2'),
        _conv(rf'{_BLOCK}downsample\.0', 'block_#/shortcut'),
        *_batch_norm(rf'{_BLOCK}downsample\.1', 'block_#/shortcut_norm'),
        *_dense('fc', 'out'),
    ),
    # vit_b_16 and the others of torchvision: `ViT`. (Before its version 0.13
    # the layers of a perceptron were called linear_1 and linear_2.)
    'torchvision_vit': (
        _conv('conv_proj', 'patches'),
        Rule(r'conv_proj\.bias', 'params/patches/bias'),
        Rule('class_token', 'params/class_token'),
        Rule(r'encoder\.pos_embedding', 'params/positions'),
        *_layer_norm(f'{_LAYER}ln_1', 'layer_#/attention_norm'),
        Rule(f'{_ATTENTION}in_proj_weight', 'params/layer_#/qkv/kernel', 'OI'),
        Rule(f'{_ATTENTION}in_proj_bias', 'params/layer_#/qkv/bias'),
        *_dense(f'{_ATTENTION}out_proj', 'layer_#/attention'),
        *_layer_norm(f'{_LAYER}ln_2', 'layer_#/output_norm'),
        *_dense(rf'{_LAYER}mlp\.(?:0|linear_1)', 'layer_#/intermediate'),
        *_dense(rf'{_LAYER}mlp\.(?:3|linear_2)', 'layer_#/output'),
        *_layer_norm(r'encoder\.ln', 'final_norm'),
        *_dense(r'heads\.head', 'out'),
    ),
    # A quantised one, layer by layer: `MobileNetV2`.
    'mobilenet_v2': (
        Rule(r'w(\d+)', 'params/conv_#/kernel', '', r'ws\1', r'wz\1'),
        Rule(r'b(\d+)', 'params/conv_#/bias'),
        Rule('graph', ''),
    ),
}
