"""Which user encoders are there? From clicked item vectors to a user vector; `users` in a params file names one."""

from nrms.models.users.alignrec import AlignRec
from nrms.models.users.bert4rec import BERT4Rec
from nrms.models.users.bm3 import BM3
from nrms.models.users.dssm import DSSM
from nrms.models.users.freedom import FREEDOM
from nrms.models.users.gru4rec import GRU4Rec
from nrms.models.users.lightgcn import LightGCN
from nrms.models.users.missrec import MISSRec
from nrms.models.users.nextitnet import NextItNet
from nrms.models.users.nrms import NRMSUsers
from nrms.models.users.pointwise import Pointwise, PointwiseUnmasked
from nrms.models.users.sasrec import SASRec

USERS = {
    **{"nrms": NRMSUsers, "pointwise": Pointwise, "pointwise_unmasked": PointwiseUnmasked},
    **{"sasrec": SASRec, "bert4rec": BERT4Rec, "gru4rec": GRU4Rec, "nextitnet": NextItNet, "dssm": DSSM, "missrec": MISSRec},
    **{"lightgcn": LightGCN, "bm3": BM3, "freedom": FREEDOM, "alignrec": AlignRec},
}
