import io from 'socket.io-client-1';

import { prove } from './socketio.js';

prove('socket.io-client 1.7.4', io);
