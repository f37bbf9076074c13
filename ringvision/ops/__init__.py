"""The arithmetic under the model: attention round the ring, rotary positions, losses. Arrays in, arrays out.

ring, ring_hops         ring attention: the public functions, and the hops on each device
cached                  attention of new tokens to a cache that is spread over the ring
attention               how heads are grouped, and how results over different keys merge
mask                    which keys a query attends to, told for all (MaskSpec) and for each (Tokens.earliest)
spec, inputs            all of a call that is fixed when compiling; its arguments, checked
route, exchange         which hops are run; in which way keys come to the queries
ulysses                 heads instead of tokens shared out, inside the ring
tiles                   which tiles of the score matrix are empty, full or need a mask
reach                   queries that look back all the way are taken before those that do not
kernels/                one block of attention on one device: xla, splash (TPU), cudnn (GPU)
layout, layout_choice   which device has which tokens, and which layout fits a batch
rope, losses            rotary positions; cross-entropy by chunks
"""
